-- name: gadget_sales
-- key: orderid
-- description: The latest version of each order; a removed order is not there.
-- The same columns as the view gadget_sales of the serverless shape. date is UTC's, of the order or else of its last change.
SELECT
    orderid,
    product_name,
    quantity,
    price,
    payment_method,
    order_timestamp,
    status,
    CAST(coalesce(order_timestamp, _committed_at) AS DATE) AS date
FROM silver.dynamodb_OrderTable
