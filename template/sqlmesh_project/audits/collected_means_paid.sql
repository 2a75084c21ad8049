AUDIT (
  name collected_means_paid
);

/* A bicycle leaves the workshop when its bill is paid. */
SELECT
  *
FROM @this_model
WHERE
  status = 'collected' AND paid < billed
