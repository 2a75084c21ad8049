/* What each repair costs and what was paid. One row per job.

   The audit `collected_means_paid` warns about four jobs of the sample data: the customers left with
   their bicycles although the terminal had refused their cards. It does not block, for the figures
   are right; somebody has to write four letters. */
MODEL (
  name intermediate.repair_bills,
  kind VIEW,
  owner 'finance@spokewell.example',
  tags [billing],
  grain job_id,
  references (customer_id, workshop_code),
  audits (
    NOT_NULL(columns := (job_id, customer_id, labour, parts_sales, discount, billed)),
    UNIQUE_VALUES(columns := [job_id]),
    ACCEPTED_RANGE("column" := billed, min_v := 0),
    ACCEPTED_RANGE("column" := discount, min_v := 0, max_v := 100),
    NEVER_OVERPAID,
    COLLECTED_MEANS_PAID(blocking := FALSE)
  )
);

WITH payments AS (
  SELECT
    job_id,
    SUM(amount) AS paid
  FROM staging.payments
  GROUP BY
    job_id
)
SELECT
  jobs.job_id::BIGINT AS job_id, /* Number on the job sheet */
  jobs.workshop_code::TEXT AS workshop_code, /* Workshop that did the work */
  jobs.customer_id::BIGINT AS customer_id, /* Who pays */
  COALESCE(statuses.status, 'booked')::TEXT AS status, /* Latest status of the job */
  CASE WHEN statuses.status = 'collected' THEN statuses.status_since ELSE NULL END::TIMESTAMP AS collected_at, /* Moment at which the bicycle left, if it has */
  charges.labour::DECIMAL(12, 2) AS labour, /* Price of the work, in euros */
  charges.parts_sales::DECIMAL(12, 2) AS parts_sales, /* Price of the parts, in euros */
  charges.parts_cost::DECIMAL(12, 2) AS parts_cost, /* What the parts cost the chain, in euros */
  charges.discount::DECIMAL(12, 2) AS discount, /* Membership discount, in euros */
  (
    charges.labour + charges.parts_sales - charges.discount
  )::DECIMAL(12, 2) AS billed, /* What the customer owes in all, in euros */
  COALESCE(payments.paid, 0)::DECIMAL(12, 2) AS paid /* What the customer has paid, in euros */
FROM staging.repair_jobs AS jobs
JOIN intermediate.repair_charges AS charges
  ON jobs.job_id = charges.job_id
LEFT JOIN intermediate.job_status AS statuses
  ON jobs.job_id = statuses.job_id
LEFT JOIN payments
  ON jobs.job_id = payments.job_id
