AUDIT (
  name never_overpaid
);

/* Nobody pays more than the bill. */
SELECT
  *
FROM @this_model
WHERE
  paid > billed
