"""The measurements that the documents quote; one command makes each table."""
