-- name: sales_kpis
-- key: period
-- description: Orders, revenue, average order value and freshness.
-- Of all time, and of the last days before the newest order; revenue leaves cancelled orders out. Every change
-- committed in the shop until fresh_until is counted.
WITH newest AS (
    SELECT max(created_at) AS order_at, max(_committed_at) AS change_at FROM silver.fact_sales
),
periods AS (
    SELECT * FROM (VALUES ('all', NULL), ('30 days', 30), ('7 days', 7), ('24 hours', 1)) AS periods(period, days)
)
SELECT
    periods.period,
    count(*) AS orders,
    count(*) FILTER (WHERE sales.status = 'CANCELLED') AS cancelled_orders,
    coalesce(sum(sales.total_amount) FILTER (WHERE sales.status <> 'CANCELLED'), 0) AS revenue,
    round(
        sum(sales.total_amount) FILTER (WHERE sales.status <> 'CANCELLED')
        / nullif(count(*) FILTER (WHERE sales.status <> 'CANCELLED'), 0),
        2
    ) AS average_order_value,
    max(newest.order_at) AS newest_order_at,
    max(newest.change_at) AS fresh_until
FROM silver.fact_sales AS sales
CROSS JOIN newest
JOIN periods ON periods.days IS NULL OR epoch(newest.order_at) - epoch(sales.created_at) < 86400 * periods.days
GROUP BY periods.period
ORDER BY coalesce(max(periods.days), 100000) DESC
