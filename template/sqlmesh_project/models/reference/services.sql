/* The menu of services. One row per service, kept by hand in `seeds/services.csv`. */
MODEL (
  name reference.services,
  kind SEED (
    path '../../seeds/services.csv'
  ),
  owner 'operations@spokewell.example',
  tags [reference],
  columns (
    service_code TEXT,
    service_name TEXT,
    labour_minutes INT,
    labour_price DECIMAL(10, 2),
    promised_hours INT
  ),
  column_descriptions (
    service_code = 'Code on the job sheet',
    service_name = 'Name on the price board',
    labour_minutes = 'Planned work at the stand, in minutes',
    labour_price = 'Price of the work without parts, in euros',
    promised_hours = 'Hours from drop-off within which the bicycle should be ready'
  ),
  grain service_code,
  audits (
    NOT_NULL(columns := (service_code, labour_price)),
    UNIQUE_VALUES(columns := [service_code]),
    ACCEPTED_RANGE("column" := labour_price, min_v := 0, inclusive := FALSE),
    ACCEPTED_RANGE("column" := labour_minutes, min_v := 5, max_v := 480)
  )
)
