/* Where each repair stands now. One row per job: the latest entry of the tablets' log. Entries may arrive
   late, and the log holds all of them, so that a load with new ones builds the whole table again. */
MODEL (
  name intermediate.job_status,
  kind INCREMENTAL_BY_UNIQUE_KEY (
    unique_key job_id,
    lookback 2
  ),
  owner 'operations@spokewell.example',
  tags (workshop_floor, 'dagster:new_data:all'),
  depends_on [staging.repair_jobs],
  grain job_id,
  audits (
    NOT_NULL(columns := (job_id, status, status_since)),
    UNIQUE_VALUES(columns := [job_id]),
    KNOWN_IN("column" := job_id, parent := staging.repair_jobs)
  )
);

SELECT
  job_id::BIGINT AS job_id, /* Number on the job sheet */
  status::TEXT AS status, /* Latest status */
  mechanic::TEXT AS mechanic, /* Who set it */
  occurred_at::TIMESTAMP AS status_since /* Moment from which the status holds */
FROM staging.job_events
WHERE
  occurred_at BETWEEN @start_ts AND @end_ts
QUALIFY
  ROW_NUMBER() OVER (PARTITION BY job_id ORDER BY occurred_at DESC, event_id DESC) = 1
