/* Payments taken at the tills. One row per payment. */
MODEL (
  name staging.payments,
  kind VIEW,
  owner 'finance@spokewell.example',
  tags [staging],
  grain payment_id,
  references (job_id, workshop_code),
  audits (
    NUMBER_OF_ROWS(threshold := 0),
    NOT_NULL(columns := (payment_id, job_id, workshop_code, amount, paid_at)),
    UNIQUE_VALUES(columns := [payment_id]),
    ACCEPTED_VALUES("column" := kind, is_in := ('deposit', 'balance')),
    ACCEPTED_VALUES("column" := method, is_in := ('card', 'cash', 'invoice')),
    ACCEPTED_RANGE("column" := amount, min_v := 0, inclusive := FALSE)
  )
);

SELECT
  payment_id::BIGINT AS payment_id, /* Number of the receipt */
  job_id::BIGINT AS job_id, /* Job that is paid for */
  workshop_code::TEXT AS workshop_code, /* Workshop whose till took the money */
  kind::TEXT AS kind, /* Deposit at drop-off, or balance at collection */
  method::TEXT AS method, /* Card, cash or invoice */
  amount::DECIMAL(10, 2) AS amount, /* Money received, in euros */
  paid_at::TIMESTAMP AS paid_at /* Moment of the payment */
FROM raw.payments
