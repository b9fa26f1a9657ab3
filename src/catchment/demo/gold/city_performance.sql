-- name: city_performance
-- key: city
-- description: Premium orders (500 or more) and standard ones of each city, and its share of all premium revenue.
-- Cancelled orders are left out.
WITH placed AS (
    SELECT
        users.city,
        sales.total_amount,
        sales.total_amount >= 500 AS premium
    FROM silver.fact_sales AS sales
    JOIN silver.dim_users AS users ON users.user_id = sales.user_id
    WHERE sales.status <> 'CANCELLED'
),
cities AS (
    SELECT
        city,
        count(*) AS orders,
        count(*) FILTER (WHERE premium) AS premium_orders,
        count(*) FILTER (WHERE NOT premium) AS standard_orders,
        sum(total_amount) AS revenue,
        coalesce(sum(total_amount) FILTER (WHERE premium), 0) AS premium_revenue,
        coalesce(sum(total_amount) FILTER (WHERE NOT premium), 0) AS standard_revenue
    FROM placed
    GROUP BY city
),
market AS (
    SELECT
        city,
        round(100 * sum(total_amount) / nullif(sum(sum(total_amount)) OVER (), 0), 2) AS premium_share_percent
    FROM placed
    WHERE premium
    GROUP BY city
)
SELECT
    cities.city,
    cities.orders,
    cities.revenue,
    cities.premium_orders,
    cities.premium_revenue,
    cities.standard_orders,
    cities.standard_revenue,
    coalesce(market.premium_share_percent, 0) AS premium_share_percent
FROM cities
LEFT JOIN market ON market.city = cities.city
ORDER BY cities.revenue DESC, cities.city
