//! Sends egress traffic to a next hop by its source address.
