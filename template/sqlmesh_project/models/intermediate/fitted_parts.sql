/* Parts sold, with the supplier's price of the day. One row per line of a job sheet. SQLMesh puts
   the query of an EMBEDDED model into the models that use it; there is no table. */
MODEL (
  name intermediate.fitted_parts,
  kind EMBEDDED,
  owner 'purchasing@spokewell.example',
  tags [purchasing],
  grain line_id
);

SELECT
  lines.line_id::BIGINT AS line_id, /* Number of the line */
  lines.job_id::BIGINT AS job_id, /* Job that the part was fitted in */
  lines.part_code::TEXT AS part_code, /* Part of the price list */
  prices.category::TEXT AS category, /* Shelf of the part */
  lines.quantity::INT AS quantity, /* Pieces */
  lines.fitted_at::TIMESTAMP AS fitted_at, /* Moment at which the part left the shelf */
  (
    lines.quantity * lines.unit_price
  )::DECIMAL(12, 2) AS sales, /* What the customer pays, in euros */
  (
    lines.quantity * prices.supplier_cost
  )::DECIMAL(12, 2) AS cost /* What the supplier charged, in euros */
FROM staging.job_parts AS lines
LEFT JOIN staging.part_prices AS prices
  ON lines.part_code = prices.part_code
  AND lines.fitted_at >= prices.valid_from
  AND lines.fitted_at < COALESCE(prices.valid_to, '9999-12-31'::TIMESTAMP)
