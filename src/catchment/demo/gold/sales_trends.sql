-- name: sales_trends
-- key: period, starts_at
-- description: Orders and revenue of each hour and each day (UTC), with moving averages of revenue.
-- Cancelled orders are left out. The average of an hour is over the 24 hours up to it, that of a day over 7 days;
-- periods without an order count as nothing sold.
WITH placed AS (
    SELECT
        date_trunc('hour', created_at) AS hour,
        date_trunc('day', created_at) AS day,
        total_amount
    FROM silver.fact_sales
    WHERE status <> 'CANCELLED'
),
hours AS (
    SELECT hour, count(*) AS orders, sum(total_amount) AS revenue FROM placed GROUP BY hour
),
days AS (
    SELECT day, count(*) AS orders, sum(total_amount) AS revenue FROM placed GROUP BY day
),
trends AS (
    SELECT
        'hour' AS period,
        hour AS starts_at,
        orders,
        revenue,
        sum(revenue) OVER (ORDER BY hour RANGE BETWEEN INTERVAL 23 HOURS PRECEDING AND CURRENT ROW) AS recent,
        24 AS periods
    FROM hours
    UNION ALL
    SELECT
        'day' AS period,
        day AS starts_at,
        orders,
        revenue,
        sum(revenue) OVER (ORDER BY day RANGE BETWEEN INTERVAL 6 DAYS PRECEDING AND CURRENT ROW) AS recent,
        7 AS periods
    FROM days
)
SELECT
    period,
    starts_at,
    orders,
    revenue,
    round(recent / nullif(periods, 0), 2) AS average_revenue,
    round(revenue / nullif(orders, 0), 2) AS average_order_value
FROM trends
ORDER BY period, starts_at DESC
