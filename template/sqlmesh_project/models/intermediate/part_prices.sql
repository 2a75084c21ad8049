/* What each part cost, and when. One row per part and price. The price list is overwritten on each
   load; this model remembers the earlier prices: a price holds from `valid_from` (1970 for the first
   known one) until `valid_to` (NULL for the current one). A load with new prices adds to it at once. */
MODEL (
  name intermediate.part_prices,
  kind SCD_TYPE_2_BY_COLUMN (
    unique_key part_code,
    columns (supplier_cost, list_price)
  ),
  owner 'purchasing@spokewell.example',
  tags (purchasing, 'dagster:new_data:newest'),
  grain (part_code, valid_from),
  audits (
    NOT_NULL(columns := (part_code, valid_from)),
    UNIQUE_COMBINATION_OF_COLUMNS(columns := (part_code, valid_from)),
    UNIQUE_VALUES(columns := [part_code], condition := valid_to IS NULL)
  )
);

SELECT
  part_code::TEXT AS part_code, /* Code on the shelf label */
  category::TEXT AS category, /* Shelf of the part */
  supplier_cost::DECIMAL(10, 2) AS supplier_cost, /* What the supplier charges for a piece, in euros */
  list_price::DECIMAL(10, 2) AS list_price /* What a customer pays for a piece, in euros */
FROM staging.parts
