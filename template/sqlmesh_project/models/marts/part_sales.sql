/* Spare parts sold per month. One row per part and month. */
MODEL (
  name marts.part_sales,
  kind FULL,
  owner 'purchasing@spokewell.example',
  tags [purchasing],
  grain (part_code, month),
  audits (
    NOT_NULL(columns := (part_code, month, list_sales)),
    UNIQUE_COMBINATION_OF_COLUMNS(columns := (part_code, month)),
    FORALL(criteria := (quantity > 0, sales >= cost, sales <= list_sales))
  )
);

SELECT
  lines.part_code::TEXT AS part_code, /* Part of the price list */
  prices.category::TEXT AS category, /* Shelf of the part */
  DATE_TRUNC('MONTH', lines.fitted_at)::DATE AS month, /* First day of the month */
  SUM(lines.quantity)::INT AS quantity, /* Pieces */
  SUM(lines.quantity * lines.unit_price)::DECIMAL(12, 2) AS sales, /* What customers pay, in euros */
  SUM(lines.quantity * prices.list_price)::DECIMAL(12, 2) AS list_sales, /* What they would pay by the price list of the day, in euros */
  SUM(lines.quantity * lines.unit_cost)::DECIMAL(12, 2) AS cost /* What the supplier charged, in euros */
FROM staging.job_parts AS lines
LEFT JOIN intermediate.part_prices AS prices
  ON lines.part_code = prices.part_code
  AND lines.fitted_at >= prices.valid_from
  AND lines.fitted_at < COALESCE(prices.valid_to, '9999-12-31'::TIMESTAMP)
GROUP BY
  lines.part_code,
  prices.category,
  DATE_TRUNC('MONTH', lines.fitted_at)
