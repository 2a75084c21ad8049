/* Today's price list of spare parts. One row per part. */
MODEL (
  name staging.parts,
  kind VIEW,
  owner 'purchasing@spokewell.example',
  tags [staging],
  grain part_code,
  audits (
    NUMBER_OF_ROWS(threshold := 0),
    NOT_NULL(columns := (part_code, supplier_cost, list_price)),
    UNIQUE_VALUES(columns := [part_code]),
    FORALL(criteria := (supplier_cost > 0, list_price > supplier_cost))
  )
);

SELECT
  part_code::TEXT AS part_code, /* Code on the shelf label */
  part_name::TEXT AS part_name, /* Name on the invoice */
  category::TEXT AS category, /* Shelf: tyres, brakes, drivetrain and so on */
  supplier_cost::DECIMAL(10, 2) AS supplier_cost, /* What the supplier charges for a piece, in euros */
  list_price::DECIMAL(10, 2) AS list_price /* What a customer pays for a piece, in euros */
FROM raw.parts
