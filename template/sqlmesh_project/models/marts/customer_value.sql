/* What each customer means to the chain. One row per customer with at least one repair. */
MODEL (
  name marts.customer_value,
  kind FULL,
  owner 'marketing@spokewell.example',
  tags [marketing],
  grain customer_id,
  audits (
    NOT_NULL(columns := (customer_id, tier)),
    UNIQUE_VALUES(columns := [customer_id]),
    ACCEPTED_VALUES("column" := tier, is_in := ('occasional', 'regular', 'devoted')),
    KNOWN_IN("column" := customer_id, parent := staging.customers)
  )
);

SELECT
  customers.customer_id::BIGINT AS customer_id, /* Number on the customer card */
  customers.full_name::TEXT AS full_name, /* First and last name */
  customers.email::TEXT AS email, /* Mail address, NULL if not given */
  customers.is_member::BOOLEAN AS is_member, /* Whether the customer has the membership */
  COUNT(*)::INT AS repairs, /* Jobs of the customer, cancelled ones too */
  SUM(bills.paid)::DECIMAL(12, 2) AS spent, /* Money received, in euros */
  MAX(bills.collected_at)::DATE AS last_collected_on, /* Day of the last visit */
  @tier(SUM(bills.paid), occasional := 0, regular := 100, devoted := 300)::TEXT AS tier /* Occasional, regular from 100 euros, devoted from 300 euros */
FROM intermediate.repair_bills AS bills
JOIN staging.customers AS customers
  ON bills.customer_id = customers.customer_id
GROUP BY
  customers.customer_id,
  customers.full_name,
  customers.email,
  customers.is_member
