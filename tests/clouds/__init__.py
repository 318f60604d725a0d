"""Stand-ins for clouds: processes with state that speak the vendor's own protocol."""
