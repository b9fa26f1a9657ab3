-- name: city_revenue
-- key: city
-- description: Orders and revenue of each city; cancelled orders count as orders, not as revenue.
SELECT
    users.city,
    count(*) AS orders,
    coalesce(sum(sales.total_amount) FILTER (WHERE sales.status <> 'CANCELLED'), 0) AS revenue
FROM current.fact_sales AS sales
JOIN current.dim_users AS users ON users.user_id = sales.user_id
GROUP BY users.city
ORDER BY revenue DESC, users.city
