/* Customers with tidied names and mail addresses. One row per customer. */
MODEL (
  name staging.customers,
  kind VIEW,
  owner 'operations@spokewell.example',
  tags [staging],
  grain customer_id,
  audits (
    NUMBER_OF_ROWS(threshold := 0),
    NOT_NULL(columns := (customer_id, full_name)),
    UNIQUE_VALUES(columns := [customer_id]),
    LOOKS_LIKE_MAIL("column" := email, blocking := FALSE),
    NOT_NULL_PROPORTION("column" := email, threshold := 0.9, blocking := FALSE)
  )
);

SELECT
  customer_id::BIGINT AS customer_id, /* Number on the customer card */
  TRIM(full_name)::TEXT AS full_name, /* First and last name */
  NULLIF(LOWER(TRIM(email)), '')::TEXT AS email, /* Mail address in lower case, NULL if not given */
  is_member::BOOLEAN AS is_member, /* Whether the customer has the 10 % membership */
  joined_on::DATE AS joined_on /* Day of the first contact */
FROM raw.customers
