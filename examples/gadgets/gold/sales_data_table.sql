-- name: sales_data_table
-- description: Every change of an order, one row each: what a removed one was, what any other became.
-- The columns of the table sales_data_table of the serverless shape, but for stream_label. Orders that the first scan
-- found have no event: their event_type is UNKNOWN.
SELECT
    coalesce(after.orderid, before.orderid) AS orderid,
    CASE WHEN _op = 'd' THEN before.product_name ELSE after.product_name END AS product_name,
    CASE WHEN _op = 'd' THEN before.quantity ELSE after.quantity END AS quantity,
    CASE WHEN _op = 'd' THEN before.price ELSE after.price END AS price,
    CASE WHEN _op = 'd' THEN before.payment_method ELSE after.payment_method END AS payment_method,
    CASE WHEN _op = 'd' THEN before.order_timestamp ELSE after.order_timestamp END AS order_timestamp,
    CASE WHEN _op = 'd' THEN before.status ELSE after.status END AS status,
    CASE _op WHEN 'c' THEN 'INSERT' WHEN 'u' THEN 'MODIFY' WHEN 'd' THEN 'REMOVE' ELSE 'UNKNOWN' END AS event_type,
    _committed_at AS event_time,
    _event_id AS event_id,
    _sequence_number AS sequence_number,
    CAST(
        coalesce(
            CASE WHEN _op = 'd' THEN before.order_timestamp ELSE after.order_timestamp END,
            _committed_at
        ) AS DATE
    ) AS order_date
FROM bronze.dynamodb_OrderTable
WHERE _op <> 't'
