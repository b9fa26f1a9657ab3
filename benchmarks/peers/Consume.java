import io.debezium.engine.ChangeEvent;
import io.debezium.engine.DebeziumEngine;
import io.debezium.engine.format.Json;
import java.io.FileReader;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicReference;

/** Debezium's engine with a consumer that only counts: PROPERTIES CHANGES, prints JSON. */
public class Consume {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        try (FileReader file = new FileReader(arguments[0])) {
            properties.load(file);
        }
        long expected = Long.parseLong(arguments[1]);
        CountDownLatch done = new CountDownLatch(1);
        AtomicReference<String> failure = new AtomicReference<>();
        long start = System.nanoTime();
        long[] seen = {0, 0, 0}; // changes, first at, last at

        DebeziumEngine<ChangeEvent<String, String>> engine = DebeziumEngine.create(Json.class)
                .using(properties)
                .notifying((List<ChangeEvent<String, String>> records, DebeziumEngine.RecordCommitter<ChangeEvent<String, String>> committer) -> {
                    if (seen[0] == 0) {
                        seen[1] = System.nanoTime();
                    }
                    for (ChangeEvent<String, String> record : records) {
                        if (record.value() != null) {
                            seen[0]++;
                        }
                        committer.markProcessed(record);
                    }
                    committer.markBatchFinished();
                    if (seen[0] >= expected) {
                        seen[2] = System.nanoTime();
                        done.countDown();
                    }
                })
                .using((success, message, error) -> {
                    if (!success) {
                        failure.set(message + " " + error);
                    }
                    done.countDown();
                })
                .build();
        ExecutorService executor = Executors.newSingleThreadExecutor();
        executor.execute(engine);
        done.await();
        if (failure.get() != null) {
            System.err.println(failure.get());
            System.exit(1);
        }
        System.out.printf("{\"changes\": %d, \"seconds\": %.3f, \"startup_seconds\": %.3f}%n",
                seen[0], (seen[2] - seen[1]) / 1e9, (seen[1] - start) / 1e9);
        System.out.flush();
        engine.close();
        executor.shutdown();
        System.exit(0);
    }
}
