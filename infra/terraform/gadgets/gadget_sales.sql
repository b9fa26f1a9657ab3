SELECT orderid, product_name, quantity, price, payment_method, order_timestamp, status, CAST(order_date AS date) AS date
FROM (
  SELECT
    *,
    row_number() OVER (
      PARTITION BY orderid
      ORDER BY coalesce(stream_label, '') DESC, lpad(coalesce(sequence_number, ''), 40, '0') DESC, event_time DESC
    ) AS age
  FROM sales_data_table
)
WHERE age = 1 AND event_type <> 'REMOVE'
