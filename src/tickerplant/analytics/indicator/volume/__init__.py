"""Volume indicators: traded volume in relation to the price. One module per indicator, registered automatically."""
