-- name: opening_stock
-- key: product_name
-- description: Units of each product in the warehouse before the first order: change it to yours.
SELECT
    product_name,
    units
FROM (
    VALUES
        ('Laptop', 9000),
        ('Phone', 12000),
        ('Tablet', 9000),
        ('Headphones', 15000),
        ('Charger', 20000),
        ('Smartwatch', 10000)
) AS stock(product_name, units)
