-- name: order_status
-- key: status
-- description: How many orders are in each status, and what they are worth.
SELECT
    status,
    count(*) AS orders,
    sum(total_amount) AS amount
FROM current.fact_sales
GROUP BY status
ORDER BY status
