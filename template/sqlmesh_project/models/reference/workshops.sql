/* The workshops of the chain. One row per workshop, kept by hand in `seeds/workshops.csv`. */
MODEL (
  name reference.workshops,
  kind SEED (
    path '../../seeds/workshops.csv'
  ),
  owner 'operations@spokewell.example',
  tags [reference],
  columns (
    workshop_code TEXT,
    workshop_name TEXT,
    town TEXT,
    stands INT,
    opened_in INT
  ),
  column_descriptions (
    workshop_code = 'Three letters that the tills and tablets use',
    workshop_name = 'Name over the door',
    town = 'Town of the workshop',
    stands = 'Repair stands, that is bicycles in work at once',
    opened_in = 'First year of business'
  ),
  grain workshop_code,
  audits (
    NOT_NULL(columns := (workshop_code, workshop_name)),
    UNIQUE_VALUES(columns := [workshop_code])
  )
)
