{{ config(tags=['daily', 'value']) }}
select c.id, c.name, {{ money.cents('sum(o.amount)') }} as cents
from {{ ref('customers') }} c join {{ ref('stg_orders') }} o on o.customer_id = c.id
group by all
