DROP TABLE order_keys;
DROP TABLE orders;
