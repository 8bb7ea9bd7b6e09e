"""Parameters of surrogates that are trained on families of RVEs."""

from pydantic import Field

from femops.errors import CaseError
from femops.law import LawContext
from femops.rve.spec import RVE, RVEParameters, build_rve
from femops.surrogate.spec import SurrogateParameters


class FamilyParameters(SurrogateParameters):
    """Base of a surrogate that serves many RVEs: which one it stands in for here."""

    rve: RVEParameters | None = Field(None, description="the RVE to stand in for, as that of the nested law")

    def build_rve(self, context: LawContext) -> RVE | None:
        """Return the RVE given in the case.

        Raises:
            CaseError: It cannot be built.
        """
        if self.rve is None:
            return None
        try:
            return build_rve(self.rve, context)
        except CaseError as error:
            raise error.within(key="rve") from error
