AUDIT (
  name looks_like_mail
);

/* Something, an @, and a name with a dot. SQLMesh's own `valid_email` is a regular expression, which not
   every engine takes. */
SELECT
  *
FROM @this_model
WHERE
  NOT @column LIKE '%_@_%.__%'
