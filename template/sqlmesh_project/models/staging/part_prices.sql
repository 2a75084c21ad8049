/* What each part cost, and when. One row per part and price. The price list is overwritten on each
   load; this model remembers the earlier prices: a price holds from `valid_from` (1970 for the first
   known one) until `valid_to` (NULL for the current one). */
MODEL (
  name staging.part_prices,
  kind SCD_TYPE_2_BY_COLUMN (
    unique_key part_code,
    columns (supplier_cost, list_price)
  ),
  owner 'purchasing@spokewell.example',
  tags [staging],
  grain (part_code, valid_from),
  audits (
    NUMBER_OF_ROWS(threshold := 0),
    NOT_NULL(columns := (part_code, supplier_cost, list_price, valid_from)),
    UNIQUE_COMBINATION_OF_COLUMNS(columns := (part_code, valid_from)),
    UNIQUE_VALUES(columns := [part_code], condition := valid_to IS NULL),
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
