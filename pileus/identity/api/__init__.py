"""Keystone's v3 API: parse, authorise, call, shape. The rules are one level up."""
