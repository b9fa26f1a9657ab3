-- name: order_status
-- key: status
-- description: How many orders are in each status, what they are worth, and how long they have been there.
-- Hours count up to the newest change of an order. The shop writes updated_at when an order's status changes.
WITH newest AS (
    SELECT max(updated_at) AS change_at FROM silver.fact_sales
),
orders AS (
    SELECT
        sales.status,
        sales.total_amount,
        sales.updated_at,
        (epoch(newest.change_at) - epoch(sales.updated_at)) / 3600 AS hours
    FROM silver.fact_sales AS sales
    CROSS JOIN newest
)
SELECT
    status,
    count(*) AS orders,
    sum(total_amount) AS amount,
    min(updated_at) AS oldest_since,
    round(avg(hours), 2) AS average_hours,
    round(CAST(max(hours) AS DOUBLE), 2) AS longest_hours
FROM orders
GROUP BY status
ORDER BY status
