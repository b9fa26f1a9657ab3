-- name: top_products
-- key: product_id
-- description: The twenty products with the most revenue, cancelled orders left out.
SELECT
    products.product_id,
    products.name,
    products.category,
    count(*) AS orders,
    sum(sales.quantity) AS quantity,
    sum(sales.total_amount) AS revenue
FROM current.fact_sales AS sales
JOIN current.dim_products AS products ON products.product_id = sales.product_id
WHERE sales.status <> 'CANCELLED'
GROUP BY products.product_id, products.name, products.category
ORDER BY revenue DESC, products.product_id
LIMIT 20
