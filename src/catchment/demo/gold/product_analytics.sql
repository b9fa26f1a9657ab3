-- name: product_analytics
-- key: product_id
-- description: What each product brought, how popular it is, and how often its orders are cancelled.
-- Units and revenue leave cancelled orders out. popularity: 1 for the product of which most units were sold.
WITH sold AS (
    SELECT
        products.product_id,
        products.name,
        products.category,
        products.price,
        count(sales.order_id) AS orders,
        count(*) FILTER (WHERE sales.status = 'CANCELLED') AS cancellations,
        coalesce(sum(sales.quantity) FILTER (WHERE sales.status <> 'CANCELLED'), 0) AS units,
        coalesce(sum(sales.total_amount) FILTER (WHERE sales.status <> 'CANCELLED'), 0) AS revenue
    FROM silver.dim_products AS products
    LEFT JOIN silver.fact_sales AS sales ON sales.product_id = products.product_id
    GROUP BY products.product_id, products.name, products.category, products.price
)
SELECT
    product_id,
    name,
    category,
    price,
    orders,
    units,
    revenue,
    rank() OVER (ORDER BY units DESC) AS popularity,
    rank() OVER (PARTITION BY category ORDER BY units DESC) AS popularity_in_category,
    cancellations,
    round(100 * cancellations / nullif(orders, 0), 2) AS cancelled_percent
FROM sold
ORDER BY revenue DESC, product_id
