{% macro is_large(column) %}{{ column }} >= {{ var('smallest_order') }}{% endmacro %}
