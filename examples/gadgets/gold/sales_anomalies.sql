-- name: sales_anomalies
-- key: period, product_name, starts_at
-- description: Minutes and hours in which much more or much less of a product was ordered than in those before.
-- A period is compared with the product's periods before it: 60 minutes (at least 10) or 48 hours (at least 12), those
-- with an order. Odd is more than three standard deviations from their mean. The newest period is not over, so it
-- cannot be a drop.
WITH placed AS (
    SELECT
        product_name,
        quantity,
        date_trunc('minute', order_timestamp) AS minute,
        date_trunc('hour', order_timestamp) AS hour
    FROM gold.gadget_sales
    WHERE coalesce(status, '') <> 'cancelled' AND product_name IS NOT NULL AND order_timestamp IS NOT NULL
),
minutes AS (
    SELECT product_name, minute AS starts_at, count(*) AS orders, sum(quantity) AS units
    FROM placed
    GROUP BY product_name, minute
),
hours AS (
    SELECT product_name, hour AS starts_at, count(*) AS orders, sum(quantity) AS units
    FROM placed
    GROUP BY product_name, hour
),
compared AS (
    SELECT
        'minute' AS period,
        product_name,
        starts_at,
        orders,
        units,
        10 AS needed,
        count(*) OVER before_minute AS periods_before,
        avg(units) OVER before_minute AS usual_units,
        stddev_samp(CAST(units AS DOUBLE)) OVER before_minute AS deviation,
        max(starts_at) OVER () AS newest
    FROM minutes
    WINDOW before_minute AS (PARTITION BY product_name ORDER BY starts_at ROWS BETWEEN 60 PRECEDING AND 1 PRECEDING)
    UNION ALL
    SELECT
        'hour' AS period,
        product_name,
        starts_at,
        orders,
        units,
        12 AS needed,
        count(*) OVER before_hour AS periods_before,
        avg(units) OVER before_hour AS usual_units,
        stddev_samp(CAST(units AS DOUBLE)) OVER before_hour AS deviation,
        max(starts_at) OVER () AS newest
    FROM hours
    WINDOW before_hour AS (PARTITION BY product_name ORDER BY starts_at ROWS BETWEEN 48 PRECEDING AND 1 PRECEDING)
)
SELECT
    period,
    product_name,
    starts_at,
    CASE WHEN units > usual_units THEN 'spike' ELSE 'drop' END AS kind,
    orders,
    units,
    round(CAST(usual_units AS DOUBLE), 2) AS usual_units,
    round((units - usual_units) / nullif(deviation, 0), 2) AS deviations
FROM compared
WHERE periods_before >= needed
    AND (units > usual_units + 3 * deviation OR (units < usual_units - 3 * deviation AND starts_at < newest))
ORDER BY starts_at DESC, period, product_name
