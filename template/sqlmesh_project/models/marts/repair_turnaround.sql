/* How long customers wait for their bicycles. One row per workshop and service. */
MODEL (
  name marts.repair_turnaround,
  kind FULL,
  cron '@weekly',
  owner 'operations@spokewell.example',
  tags [workshop_floor],
  grain (workshop_code, service_code),
  audits (
    NOT_NULL(columns := (workshop_code, service_code, hours_to_ready)),
    UNIQUE_COMBINATION_OF_COLUMNS(columns := (workshop_code, service_code)),
    ACCEPTED_RANGE("column" := on_time_share, min_v := 0, max_v := 1)
  )
);

WITH moments AS (
  SELECT
    job_id,
    MIN(occurred_at) FILTER(WHERE
      status = 'checked_in') AS checked_in_at,
    MIN(occurred_at) FILTER(WHERE
      status = 'started') AS started_at,
    MAX(occurred_at) FILTER(WHERE
      status = 'finished') AS finished_at
  FROM staging.job_events
  GROUP BY
    job_id
)
SELECT
  jobs.workshop_code::TEXT AS workshop_code, /* Workshop that did the work */
  jobs.service_code::TEXT AS service_code, /* Service of the menu */
  COUNT(*)::INT AS repairs, /* Finished repairs */
  AVG(@hours_between(checked_in_at, finished_at))::DECIMAL(10, 2) AS hours_to_ready, /* Mean hours from drop-off until the bicycle was ready */
  AVG(@hours_between(started_at, finished_at))::DECIMAL(10, 2) AS hours_at_stand, /* Mean hours on the stand */
  AVG(
    CASE
      WHEN @hours_between(checked_in_at, finished_at) <= services.promised_hours
      THEN 1
      ELSE 0
    END
  )::DECIMAL(6, 4) AS on_time_share /* Share that was ready within the promised hours */
FROM moments
JOIN staging.repair_jobs AS jobs
  ON moments.job_id = jobs.job_id
JOIN reference.services AS services
  ON jobs.service_code = services.service_code
WHERE
  NOT moments.finished_at IS NULL
GROUP BY
  jobs.workshop_code,
  jobs.service_code
