AUDIT (
  name known_in
);

/* Foreign key: each value of the column is one of the same column of the model `parent`. A parent that
   the query does not read belongs into the model's `depends_on`. */
SELECT
  *
FROM @this_model AS child
WHERE
  NOT EXISTS(
    SELECT
      1
    FROM @parent AS parent
    WHERE
      parent.@column = child.@column
  )
