/* Repairs as booked. One row per job. */
MODEL (
  name staging.repair_jobs,
  kind VIEW,
  owner 'operations@spokewell.example',
  tags [staging],
  grain job_id,
  references (customer_id, workshop_code, service_code),
  audits (
    NUMBER_OF_ROWS(threshold := 0),
    NOT_NULL(columns := (job_id, workshop_code, customer_id, service_code, booked_at)),
    UNIQUE_VALUES(columns := [job_id]),
    ACCEPTED_VALUES(
      "column" := bike_type,
      is_in := ('city', 'road', 'mountain', 'cargo', 'kids', 'ebike')
    )
  )
);

SELECT
  job_id::BIGINT AS job_id, /* Number on the job sheet */
  workshop_code::TEXT AS workshop_code, /* Workshop that takes the bicycle in */
  customer_id::BIGINT AS customer_id, /* Who booked */
  service_code::TEXT AS service_code, /* Service of the menu */
  bike_type::TEXT AS bike_type, /* Kind of bicycle */
  is_warranty::BOOLEAN AS is_warranty, /* Whether the repair is free of charge */
  booked_at::TIMESTAMP AS booked_at /* Moment of the booking */
FROM raw.repair_jobs
