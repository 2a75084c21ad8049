/* Log of the workshop tablets. One row each time a job changes its status. */
MODEL (
  name staging.job_events,
  kind VIEW,
  owner 'operations@spokewell.example',
  tags [staging],
  grain event_id,
  references job_id,
  audits (
    NUMBER_OF_ROWS(threshold := 0),
    NOT_NULL(columns := (event_id, job_id, status, occurred_at)),
    UNIQUE_VALUES(columns := [event_id]),
    ACCEPTED_VALUES(
      "column" := status,
      is_in := ('checked_in', 'started', 'finished', 'collected', 'cancelled')
    )
  )
);

SELECT
  event_id::BIGINT AS event_id, /* Number of the entry */
  job_id::BIGINT AS job_id, /* Job that changed */
  event::TEXT AS status, /* Status from this moment on */
  mechanic::TEXT AS mechanic, /* Who works on the bicycle */
  occurred_at::TIMESTAMP AS occurred_at /* Moment of the change */
FROM raw.job_events
