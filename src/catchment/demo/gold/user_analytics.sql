-- name: user_analytics
-- key: user_id
-- description: What each user ordered, how long ago, what the user is worth, and the segment that makes.
-- Cancelled orders are left out. recency_days: between the user's newest order and the shop's. lifetime_value: revenue,
-- and a year more of it at the user's own rate since the first order; nothing more from who did not order for 90 days.
WITH newest AS (
    SELECT max(created_at) AS order_at FROM silver.fact_sales
),
users AS (
    SELECT
        users.user_id,
        users.city,
        count(sales.order_id) AS orders,
        coalesce(sum(sales.total_amount), 0) AS revenue,
        min(sales.created_at) AS first_order_at,
        max(sales.created_at) AS last_order_at
    FROM silver.dim_users AS users
    LEFT JOIN silver.fact_sales AS sales ON sales.user_id = users.user_id AND sales.status <> 'CANCELLED'
    GROUP BY users.user_id, users.city
),
figures AS (
    SELECT
        users.*,
        date_diff('day', CAST(users.last_order_at AS DATE), CAST(newest.order_at AS DATE)) AS recency_days,
        date_diff('day', CAST(users.first_order_at AS DATE), CAST(newest.order_at AS DATE)) AS days_since_first,
        avg(users.revenue) OVER () AS average_revenue
    FROM users
    CROSS JOIN newest
),
rates AS (
    SELECT
        *,
        CASE
            WHEN recency_days > 90 THEN 0e0
            WHEN days_since_first > 30 THEN 365 * revenue / nullif(days_since_first, 0)
            ELSE 365 * revenue / 30
        END AS a_year
    FROM figures
)
SELECT
    user_id,
    city,
    orders,
    revenue,
    round(revenue / nullif(orders, 0), 2) AS average_order_value,
    round(CAST(revenue + a_year AS DOUBLE), 2) AS lifetime_value,
    first_order_at,
    last_order_at,
    recency_days,
    CASE
        WHEN orders = 0 THEN 'no orders'
        WHEN recency_days > 90 THEN 'lapsed'
        WHEN days_since_first <= 30 THEN 'new'
        WHEN revenue >= 1.5 * average_revenue THEN 'champion'
        WHEN recency_days > 30 THEN 'at risk'
        ELSE 'regular'
    END AS segment
FROM rates
ORDER BY user_id
