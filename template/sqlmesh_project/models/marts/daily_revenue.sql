/* Money taken per workshop and day. One row per workshop and day with at least one payment.
   Terminals send card payments up to three days late, hence the lookback. */
MODEL (
  name marts.daily_revenue,
  kind INCREMENTAL_BY_TIME_RANGE (
    time_column revenue_date,
    lookback 3,
    batch_size 730
  ),
  owner 'finance@spokewell.example',
  tags (finance, revenue),
  grain (workshop_code, revenue_date),
  audits (
    NOT_NULL(columns := (workshop_code, revenue_date, revenue)),
    UNIQUE_COMBINATION_OF_COLUMNS(columns := (workshop_code, revenue_date)),
    ACCEPTED_RANGE("column" := revenue, min_v := 0, inclusive := FALSE),
    ACCEPTED_RANGE("column" := revenue, max_v := 5000, blocking := FALSE)
  )
);

SELECT
  payments.workshop_code::TEXT AS workshop_code, /* Workshop whose till took the money */
  workshops.workshop_name::TEXT AS workshop_name, /* Name over the door */
  payments.paid_at::DATE AS revenue_date, /* Day of the payments */
  COUNT(*)::INT AS payments, /* Number of payments */
  SUM(payments.amount)::DECIMAL(12, 2) AS revenue, /* Money received, in euros */
  SUM(payments.amount) FILTER(WHERE
    payments.method = 'card')::DECIMAL(12, 2) AS card_revenue /* Part of it that came by card, in euros */
FROM staging.payments AS payments
JOIN reference.workshops AS workshops
  ON payments.workshop_code = workshops.workshop_code
WHERE
  payments.paid_at BETWEEN @start_ts AND @end_ts
GROUP BY
  payments.workshop_code,
  workshops.workshop_name,
  payments.paid_at::DATE
