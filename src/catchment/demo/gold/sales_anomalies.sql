-- name: sales_anomalies
-- key: starts_at
-- description: Hours in which much more or much less was sold than in the hours before.
-- An hour is compared with the 48 hours with orders before it (at least 12): three standard deviations from their
-- mean. The newest hour is not over, so it cannot be a drop.
WITH hours AS (
    SELECT
        starts_at,
        orders,
        revenue,
        count(*) OVER past AS hours_before,
        avg(revenue) OVER past AS usual_revenue,
        stddev_samp(CAST(revenue AS DOUBLE)) OVER past AS deviation,
        max(starts_at) OVER () AS newest
    FROM gold.sales_trends
    WHERE period = 'hour'
    WINDOW past AS (ORDER BY starts_at ROWS BETWEEN 48 PRECEDING AND 1 PRECEDING)
)
SELECT
    starts_at,
    CASE WHEN revenue > usual_revenue THEN 'spike' ELSE 'drop' END AS kind,
    orders,
    revenue,
    round(CAST(usual_revenue AS DOUBLE), 2) AS usual_revenue,
    round((revenue - usual_revenue) / nullif(deviation, 0), 2) AS deviations
FROM hours
WHERE hours_before >= 12
    AND (revenue > usual_revenue + 3 * deviation OR (revenue < usual_revenue - 3 * deviation AND starts_at < newest))
ORDER BY starts_at DESC
