/* Result of the collected repairs per workshop and month. One row per workshop and month. A bicycle may
   leave in another month than that of its parts and payments: new ones build all months again. */
MODEL (
  name marts.monthly_finance,
  kind INCREMENTAL_BY_TIME_RANGE (
    time_column month,
    lookback 1,
    batch_size 24
  ),
  cron '@monthly',
  owner 'finance@spokewell.example',
  tags (finance, 'dagster:group_name:finance', 'dagster:new_data:all'),
  grain (workshop_code, month),
  audits (
    NOT_NULL(columns := (workshop_code, month, billed)),
    UNIQUE_COMBINATION_OF_COLUMNS(columns := (workshop_code, month)),
    ACCEPTED_RANGE("column" := margin_share, min_v := 0, max_v := 1)
  )
);

SELECT
  workshop_code::TEXT AS workshop_code, /* Workshop that did the work */
  DATE_TRUNC('MONTH', collected_at)::DATE AS month, /* First day of the month in which the bicycles left */
  COUNT(*)::INT AS repairs, /* Bicycles handed back */
  SUM(labour)::DECIMAL(12, 2) AS labour, /* Price of the work, in euros */
  SUM(parts_sales)::DECIMAL(12, 2) AS parts_sales, /* Price of the parts, in euros */
  SUM(discount)::DECIMAL(12, 2) AS discounts, /* Membership discounts, in euros */
  SUM(billed)::DECIMAL(12, 2) AS billed, /* What the customers owe in all, in euros */
  SUM(parts_cost)::DECIMAL(12, 2) AS parts_cost, /* What the parts cost the chain, in euros */
  (
    SUM(billed) - SUM(parts_cost)
  )::DECIMAL(12, 2) AS margin, /* Bills less parts, in euros */
  (
    (
      SUM(billed) - SUM(parts_cost)
    ) / NULLIF(SUM(billed), 0)
  )::DECIMAL(6, 4) AS margin_share /* Margin as a share of the bills */
FROM intermediate.repair_bills
WHERE
  collected_at BETWEEN @start_ts AND @end_ts
GROUP BY
  workshop_code,
  DATE_TRUNC('MONTH', collected_at)
