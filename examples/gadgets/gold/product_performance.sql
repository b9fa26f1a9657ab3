-- name: product_performance
-- key: product_name
-- description: What each product brought, its share of all, its rank, and how often it is cancelled.
-- Units and revenue leave cancelled orders out.
WITH products AS (
    SELECT
        product_name,
        count(*) AS orders,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled_orders,
        coalesce(sum(quantity) FILTER (WHERE coalesce(status, '') <> 'cancelled'), 0) AS units,
        coalesce(sum(quantity * price) FILTER (WHERE coalesce(status, '') <> 'cancelled'), 0) AS revenue,
        max(order_timestamp) AS newest_order_at
    FROM gold.gadget_sales
    WHERE product_name IS NOT NULL
    GROUP BY product_name
)
SELECT
    product_name,
    orders,
    units,
    revenue,
    round(revenue / nullif(orders - cancelled_orders, 0), 2) AS average_order_value,
    round(100 * revenue / nullif(sum(revenue) OVER (), 0), 2) AS revenue_percent,
    rank() OVER (ORDER BY revenue DESC) AS revenue_rank,
    cancelled_orders,
    round(100 * cancelled_orders / nullif(orders, 0), 2) AS cancelled_percent,
    newest_order_at
FROM products
ORDER BY revenue DESC, product_name
