/* The revenue of a day is the sum of its payments, for all days up to the last one in the mart. It
   stands alone because it belongs to two models. */
AUDIT (
  name revenue_matches_payments,
  standalone TRUE,
  owner 'finance@spokewell.example'
);

WITH payments AS (
  SELECT
    workshop_code,
    paid_at::DATE AS revenue_date,
    SUM(amount) AS paid
  FROM staging.payments
  GROUP BY
    workshop_code,
    paid_at::DATE
)
SELECT
  COALESCE(payments.workshop_code, revenue.workshop_code) AS workshop_code,
  COALESCE(payments.revenue_date, revenue.revenue_date) AS revenue_date,
  payments.paid,
  revenue.revenue
FROM payments
FULL JOIN marts.daily_revenue AS revenue
  ON payments.workshop_code = revenue.workshop_code
  AND payments.revenue_date = revenue.revenue_date
WHERE
  payments.paid IS DISTINCT FROM revenue.revenue
  AND COALESCE(payments.revenue_date, revenue.revenue_date) <= (
    SELECT
      MAX(revenue_date)
    FROM marts.daily_revenue
  )
