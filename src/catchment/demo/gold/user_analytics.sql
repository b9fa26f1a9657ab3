-- name: user_analytics
-- key: user_id
-- description: What each user ordered, how long ago, what a year of it is worth, and the segment that makes.
-- Cancelled orders are left out. recency_days counts from the shop's newest order. lifetime_value: the user's revenue
-- a day since the first order (at least 30 days), for a year.
WITH newest AS (
    SELECT max(created_at) AS order_at FROM current.fact_sales
),
users AS (
    SELECT
        users.user_id,
        users.city,
        count(sales.order_id) AS orders,
        coalesce(sum(sales.total_amount), 0) AS revenue,
        min(sales.created_at) AS first_order_at,
        max(sales.created_at) AS last_order_at
    FROM current.dim_users AS users
    LEFT JOIN current.fact_sales AS sales ON sales.user_id = users.user_id AND sales.status <> 'CANCELLED'
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
)
SELECT
    user_id,
    city,
    orders,
    revenue,
    round(revenue / nullif(orders, 0), 2) AS average_order_value,
    round(365 * revenue / nullif(CASE WHEN days_since_first > 30 THEN days_since_first ELSE 30 END, 0), 2)
        AS lifetime_value,
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
FROM figures
ORDER BY user_id
