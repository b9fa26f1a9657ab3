-- name: sales_by_product_hour
-- key: product_name, hour
-- description: Orders, units and revenue of each product in each hour (UTC) of its orders, without cancelled ones.
SELECT
    product_name,
    date_trunc('hour', order_timestamp) AS hour,
    count(*) AS orders,
    sum(quantity) AS units,
    sum(quantity * price) AS revenue
FROM gold.gadget_sales
WHERE coalesce(status, '') <> 'cancelled' AND product_name IS NOT NULL AND order_timestamp IS NOT NULL
GROUP BY product_name, date_trunc('hour', order_timestamp)
ORDER BY hour DESC, product_name
