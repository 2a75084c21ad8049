/* Spare parts fitted during repairs. One row per line of a job sheet. */
MODEL (
  name staging.job_parts,
  kind VIEW,
  owner 'purchasing@spokewell.example',
  tags [staging],
  grain line_id,
  references (job_id, part_code),
  audits (
    NUMBER_OF_ROWS(threshold := 0),
    NOT_NULL(columns := (line_id, job_id, part_code, fitted_at)),
    UNIQUE_VALUES(columns := [line_id]),
    ACCEPTED_RANGE("column" := quantity, min_v := 1, max_v := 20),
    ACCEPTED_RANGE("column" := unit_price, min_v := 0, inclusive := FALSE),
    FORALL(criteria := (unit_cost > 0, unit_price > unit_cost))
  )
);

SELECT
  line_id::BIGINT AS line_id, /* Number of the line */
  job_id::BIGINT AS job_id, /* Job that the part was fitted in */
  part_code::TEXT AS part_code, /* Part of the price list */
  quantity::INT AS quantity, /* Pieces */
  unit_price::DECIMAL(10, 2) AS unit_price, /* What the customer pays for a piece, in euros */
  unit_cost::DECIMAL(10, 2) AS unit_cost, /* What the supplier charged for a piece, in euros */
  fitted_at::TIMESTAMP AS fitted_at /* Moment at which the part left the shelf */
FROM raw.job_parts
