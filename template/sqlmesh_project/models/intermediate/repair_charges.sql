/* What each repair costs, before anybody asks whether it was paid. One row per job. Warranty repairs
   and cancelled ones are free, but their parts still cost the chain money. SQLMesh puts the query of
   an EMBEDDED model into the models that read it: there is no table, and nothing to audit. */
MODEL (
  name intermediate.repair_charges,
  kind EMBEDDED,
  owner 'finance@spokewell.example',
  tags [billing],
  grain job_id
);

WITH parts AS (
  SELECT
    job_id,
    SUM(quantity * unit_price) AS sales,
    SUM(quantity * unit_cost) AS cost
  FROM staging.job_parts
  GROUP BY
    job_id
), prices AS (
  SELECT
    jobs.job_id,
    CASE WHEN jobs.is_warranty OR statuses.status = 'cancelled' THEN 0 ELSE 1 END AS is_charged,
    CASE WHEN customers.is_member THEN 0.1 ELSE 0 END AS discount_share,
    services.labour_price,
    COALESCE(parts.sales, 0) AS parts_sales,
    COALESCE(parts.cost, 0) AS parts_cost
  FROM staging.repair_jobs AS jobs
  JOIN reference.services AS services
    ON jobs.service_code = services.service_code
  JOIN staging.customers AS customers
    ON jobs.customer_id = customers.customer_id
  LEFT JOIN intermediate.job_status AS statuses
    ON jobs.job_id = statuses.job_id
  LEFT JOIN parts
    ON jobs.job_id = parts.job_id
)
SELECT
  job_id::BIGINT AS job_id, /* Number on the job sheet */
  (
    is_charged * labour_price
  )::DECIMAL(12, 2) AS labour, /* Price of the work, in euros */
  (
    is_charged * parts_sales
  )::DECIMAL(12, 2) AS parts_sales, /* Price of the parts, in euros */
  parts_cost::DECIMAL(12, 2) AS parts_cost, /* What the parts cost the chain, in euros */
  ROUND(is_charged * discount_share * (
    labour_price + parts_sales
  ), 2)::DECIMAL(12, 2) AS discount /* Membership discount of 10 %, in euros */
FROM prices
