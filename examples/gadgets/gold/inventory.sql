-- name: inventory
-- key: product_name
-- description: Units left of each product: its opening stock less what is ordered, without cancelled orders.
-- left_percent below 10 is low; units_left below zero means that more was sold than there was.
WITH ordered AS (
    SELECT product_name, sum(quantity) AS units
    FROM gold.gadget_sales
    WHERE coalesce(status, '') <> 'cancelled'
    GROUP BY product_name
),
counted AS (
    SELECT
        stock.product_name,
        stock.units AS opening_units,
        coalesce(ordered.units, 0) AS ordered_units,
        stock.units - coalesce(ordered.units, 0) AS units_left
    FROM gold.opening_stock AS stock
    LEFT JOIN ordered ON ordered.product_name = stock.product_name
)
SELECT
    product_name,
    opening_units,
    ordered_units,
    units_left,
    round(100 * units_left / nullif(opening_units, 0), 1) AS left_percent,
    CASE
        WHEN units_left < 0 THEN 'oversold'
        WHEN units_left * 10 < opening_units THEN 'low'
        ELSE 'in stock'
    END AS state
FROM counted
ORDER BY units_left, product_name
