select * from {{ ref('customer_value') }} v where v.id not in (select customer_id from {{ ref('stg_orders') }})
