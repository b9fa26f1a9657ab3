"""The Kinesis source: change records of DynamoDB tables in a data stream."""
