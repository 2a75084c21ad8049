/* Spare parts sold per month. One row per part and month. */
MODEL (
  name marts.part_sales,
  kind FULL,
  owner 'purchasing@spokewell.example',
  tags [purchasing],
  grain (part_code, month),
  audits (
    NOT_NULL(columns := (part_code, month, cost)),
    UNIQUE_COMBINATION_OF_COLUMNS(columns := (part_code, month)),
    FORALL(criteria := (quantity > 0, sales >= cost))
  )
);

SELECT
  part_code::TEXT AS part_code, /* Part of the price list */
  category::TEXT AS category, /* Shelf of the part */
  DATE_TRUNC('MONTH', fitted_at)::DATE AS month, /* First day of the month */
  SUM(quantity)::INT AS quantity, /* Pieces */
  SUM(sales)::DECIMAL(12, 2) AS sales, /* What customers pay, in euros */
  SUM(cost)::DECIMAL(12, 2) AS cost, /* What the supplier charged, in euros */
  (
    SUM(sales) - SUM(cost)
  )::DECIMAL(12, 2) AS margin /* Sales less cost, in euros */
FROM intermediate.fitted_parts
GROUP BY
  part_code,
  category,
  DATE_TRUNC('MONTH', fitted_at)
